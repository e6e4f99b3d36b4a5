// The law's surface: draws it, and shows the layer of the token count that the slider stands at.
(() => {
  const box = document.getElementById("surface-live");
  const slider = document.getElementById("surface-tokens");
  const said = document.getElementById("surface-said");
  const data = JSON.parse(document.getElementById("surface-data").textContent);

  function show(model, number) {
    const layer = data.layers[number];
    data.layers.forEach((_, other) => {
      for (const part of ["cells", "lines", "trials"]) model(`${part}-${other}`).visible = other === number;
    });
    model("shade").setv({ low: layer.low, high: layer.high });
    const tokens = layer.tokens.toLocaleString("en-US");
    const measured = layer.measured ? `${layer.measured} trials measured` : "no trial measured";
    said.textContent = `${tokens} tokens; ${measured}`;
    slider.setAttribute("aria-valuetext", said.textContent);
  }

  // Bokeh shows its texts to a pointer that moves; a finger's tap only comes and goes, so it is told of a move after it.
  function stay(event) {
    if (event.pointerType === "mouse") return;
    const move = new PointerEvent("pointermove", { bubbles: true, composed: true, isPrimary: true });
    for (const place of ["clientX", "clientY", "pageX", "pageY"]) {
      Object.defineProperty(move, place, { value: event[place] }); // a made event forgets how far the page is scrolled
    }
    const target = event.composedPath()[0];
    setTimeout(() => target.dispatchEvent(move), 30);
  }

  box.hidden = false; // Bokeh takes the width of what it is drawn in
  Bokeh.embed.embed_item(data.item, "surface-plot").then(
    () => {
      const page = Bokeh.documents[Bokeh.documents.length - 1];
      const model = (name) => page.get_model_by_name(name);
      document.getElementById("surface-plot").addEventListener("pointerup", stay);
      slider.addEventListener("input", () => show(model, Number(slider.value)));
      show(model, Number(slider.value)); // a browser may have kept the slider where it was
    },
    (problem) => {
      box.hidden = true; // the static picture says the same
      console.error(problem);
    },
  );
})();
