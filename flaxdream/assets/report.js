"use strict";

// Validation: the slider, the arrow keys and the play button show one step's pictures at a time.
(() => {
  const player = document.querySelector(".player");
  if (!player) return;
  const panels = [...document.querySelectorAll(".step")];
  const slider = player.querySelector("input");
  const output = player.querySelector("output");
  const play = player.querySelector(".play");
  let timer = 0;

  function show(index) {
    const at = Math.max(0, Math.min(panels.length - 1, index));
    panels.forEach((panel, number) => { panel.hidden = number !== at; });
    slider.value = at;
    output.textContent = "step " + panels[at].dataset.step;
    slider.setAttribute("aria-valuetext", output.textContent);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  function start() {
    if (Number(slider.value) === panels.length - 1) show(0);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      show(Number(slider.value) + 1);
      if (Number(slider.value) === panels.length - 1) stop();
    }, 800);
  }

  function move(by) {
    stop();
    show(Number(slider.value) + by);
  }

  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  play.addEventListener("click", () => (timer ? stop() : start()));
  player.querySelector(".back").addEventListener("click", () => move(-1));
  player.querySelector(".on").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, .plot, pre")) return;
    if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else return;
    event.preventDefault();
  });
  player.hidden = panels.length < 2;
  show(panels.length - 1);
})();

// Charts: the numbers under the pointer, or under the arrow keys when a chart has the focus.
document.querySelectorAll(".chart").forEach((figure) => {
  const { low, high, lines } = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot");
  const cursor = figure.querySelector(".cursor");
  const readout = figure.querySelector(".readout");
  const rest = readout.textContent;
  const main = lines.reduce((best, line) => (line.x.length > best.x.length ? line : best), lines[0]);
  let at = main.x.length - 1;

  function nearest(xs, x) {
    let first = 0, last = xs.length - 1;
    while (first < last) {
      const middle = (first + last) >> 1;
      if (xs[middle] < x) first = middle + 1; else last = middle;
    }
    return first > 0 && x - xs[first - 1] <= xs[first] - x ? first - 1 : first;
  }

  function show(index) {
    at = Math.max(0, Math.min(main.x.length - 1, index));
    const x = main.x[at];
    const words = ["step " + x];
    for (const line of lines) {
      const near = nearest(line.x, x);
      if (Math.abs(line.x[near] - x) > (high - low) / 60) continue;
      const where = line === main || line.x[near] === x ? "" : " (step " + line.x[near] + ")";
      words.push(line.name + " " + Number(line.y[near].toPrecision(4)) + where);
    }
    readout.textContent = words.join(" \u00b7 ");
    cursor.style.left = (high > low ? (100 * (x - low)) / (high - low) : 50) + "%";
    cursor.hidden = false;
  }

  function follow(event) {
    const box = plot.getBoundingClientRect();
    show(nearest(main.x, low + ((event.clientX - box.left) / box.width) * (high - low)));
  }

  function leave() {
    cursor.hidden = true;
    readout.textContent = rest;
  }

  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(at + by);
  });
});
