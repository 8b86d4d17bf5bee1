"use strict";
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = Array.from(document.querySelectorAll("figure"));
  const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();

  function draw(figure) {
    const plot = figure.querySelector(".plot");
    const found = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    found.layout.font.color = ink();
    found.layout.hoverlabel = { align: "left" };
    const options = { responsive: true, displaylogo: false, displayModeBar: false };
    return Plotly.react(plot, found.data, found.layout, options).then(() => figure.classList.add("drawn"));
  }

  figures.forEach(draw);
  dark.addEventListener("change", () => figures.forEach(draw));

  // A printed page cannot be unfolded: everything is open while it prints.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach((one) => (one.open = true));
  });
  window.addEventListener("afterprint", () => closed.forEach((one) => (one.open = false)));
})();
