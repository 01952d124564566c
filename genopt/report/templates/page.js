"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const make = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const signed = (value) => (value > 0 ? "+" : "") + Number(value.toPrecision(4));

/* Settings to copy: one target at a time. */
const targets = [...document.querySelectorAll(".target")];
const tabs = [...document.querySelectorAll("#tabs button")];
const show = (index) => {
  targets.forEach((target, i) => { target.hidden = i !== index; });
  tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === index)));
};
tabs.forEach((tab, i) => tab.addEventListener("click", () => show(i)));
document.querySelector(".settings").classList.add("tabbed");
show(0);
document.getElementById("copy").addEventListener("click", async () => {
  const block = targets.find((target) => !target.hidden).querySelector("pre");
  let done = true;
  try {
    await navigator.clipboard.writeText(block.textContent);
  } catch {
    getSelection().selectAllChildren(block);
    done = document.execCommand("copy");
  }
  document.getElementById("copied").textContent = done ? "Copied." : "Selected: press Ctrl-C to copy.";
});

/* The heat map: a pointer, the arrow keys, a panel with the texts. */
const field = (list, name, text) => list.append(make("dt", name), make("dd", text));
const column = (title, text, place) => {
  const box = make("div");
  box.append(make("h4", title), make("p", text, "output"));
  place.append(box);
};
const fill = (panel, sheet, row, col) => {
  const setting = data.settings[sheet.rows[row]], unit = sheet.columns[col], gain = sheet.gains[row][col];
  panel.replaceChildren(make("h3", `${setting.name} on ${unit.name}: ${gain === null ? "not measured" : signed(gain)}`));
  panel.append(make("p", setting.params, "quiet"));
  for (const index of unit.examples) {
    const example = data.examples[index], facts = make("dl"), texts = make("div", undefined, "texts");
    if (unit.examples.length > 1) panel.append(make("h4", example.id));
    example.fields.forEach(([name, text]) => field(facts, name, text));
    example.references.forEach((text) => field(facts, "reference", text));
    panel.append(texts, facts);
    for (const key of new Set([data.baseline, sheet.rows[row]])) {
      const found = (data.texts[key] || [])[index];
      const title = key === data.baseline ? "baseline" : data.settings[key].name;
      if (found) {
        const [text, worth, count] = found;
        const of = count > 1 ? `, the first of ${count} texts` : "";
        column(`${title}: ${worth === null ? "not scored" : Number(worth.toPrecision(4))}${of}`, text, texts);
      } else column(title, data.texts[key] ? "Not measured on this example." : data.elsewhere, texts);
    }
  }
  panel.hidden = false;
};
document.querySelectorAll("svg.heat").forEach((svg) => {
  const index = svg.dataset.sheet, sheet = data.sheets[index];
  const [left, top, each, high] = ["left", "top", "each", "high"].map((name) => Number(svg.dataset[name]));
  const cursor = svg.querySelector(".cursor"), status = document.getElementById(`status-${index}`);
  const panel = document.getElementById(`cell-${index}`);
  let row = 0, col = 0;
  const go = (r, c) => {
    if (r < 0 || c < 0 || r >= sheet.rows.length || c >= sheet.columns.length) return false;
    [row, col] = [r, c];
    cursor.setAttribute("x", left + c * each);
    cursor.setAttribute("y", top + r * high);
    const gain = sheet.gains[r][c];
    status.textContent = `${data.settings[sheet.rows[r]].name} on ${sheet.columns[c].name}: ${gain === null ? "not measured" : signed(gain)}`;
    return true;
  };
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return go(Math.floor((point.y - top) / high), Math.floor((point.x - left) / each));
  };
  svg.addEventListener("pointermove", at);
  svg.addEventListener("click", (event) => { if (at(event)) fill(panel, sheet, row, col); });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) go(row + step[0], col + step[1]);
    else if (event.key === "Enter" || event.key === " ") fill(panel, sheet, row, col);
    else return;
    event.preventDefault();
  });
});

/* On paper everything is open. */
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
