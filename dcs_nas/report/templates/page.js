"use strict";
for (const chart of document.querySelectorAll(".chart")) {
  const facts = JSON.parse(chart.dataset.chart);
  const plot = chart.querySelector(".plot"), cursor = chart.querySelector(".cursor"), output = chart.querySelector("output");
  const shown = (line, i) => `${line.name} ${line.values[i] === null ? "–" : Number(line.values[i].toPrecision(4))}`;
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const away = facts.places.map((place) => Math.abs(place - (event.clientX - box.left) / box.width));
    const nearest = away.indexOf(Math.min(...away));
    cursor.style.left = `${100 * facts.places[nearest]}%`;
    chart.classList.add("pointed");
    output.textContent = `${facts.label} ${facts.xs[nearest]}: ${facts.lines.map((line) => shown(line, nearest)).join(", ")}`;
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => { chart.classList.remove("pointed"); output.textContent = "\u200b"; });
}

for (const part of document.querySelectorAll(".over-epochs")) {
  const slider = part.querySelector("input[type=range]");
  if (!slider) continue;
  const data = part.querySelector("script.weights");
  const weights = data ? JSON.parse(data.textContent) : { epochs: null, tables: [] };
  const tables = [...part.querySelectorAll("table.heat")];
  const films = [...part.querySelectorAll(".film")];
  const numbers = JSON.parse(part.dataset.epochs);
  const output = part.querySelector(".slider output");
  const paint = (table, facts, epoch) => {
    const kept = new Set(facts.kept[epoch].map((pair) => pair.join()));
    [...table.tBodies[0].rows].forEach((row, r) => row.querySelectorAll("td").forEach((cell, c) => {
      const value = facts.values[epoch][r][c];
      cell.style.setProperty("--w", ((value ?? 0) / facts.largest).toFixed(3));
      cell.querySelector("span").textContent = value === null ? "–" : value.toFixed(2);
      cell.classList.toggle("kept", kept.has(`${r},${c}`));
    }));
  };
  const show = () => {
    const number = numbers[slider.valueAsNumber];
    output.textContent = number;
    const row = weights.epochs ? weights.epochs.indexOf(number) : -1;
    if (row >= 0) tables.forEach((table, i) => paint(table, weights.tables[i], row));
    for (const film of films) {
      const frame = JSON.parse(film.dataset.frames)[String(number)];
      film.querySelectorAll(".frame").forEach((picture, i) => { picture.hidden = i !== frame; });
    }
  };
  slider.addEventListener("input", show);
  const button = part.querySelector(".slider button");
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (slider.valueAsNumber >= Number(slider.max)) { slider.value = 0; show(); }
    button.textContent = "Stop";
    timer = setInterval(() => {
      slider.value = slider.valueAsNumber + 1;
      show();
      if (slider.valueAsNumber >= Number(slider.max)) stop();
    }, 600);
  });
  slider.addEventListener("pointerdown", stop);
}
