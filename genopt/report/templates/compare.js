"use strict";
/* Which rows are shown: by the button that is pressed, and by the pattern that either text contains. */
const rows = [...document.querySelectorAll(".pair")];
const buttons = [...document.querySelectorAll("#filters button")];
const grep = document.getElementById("grep");
const texts = rows.map((row) => row.querySelector(".output").textContent);
let chosen = "all";
const apply = () => {
  let pattern = null;
  grep.removeAttribute("aria-invalid");
  try {
    pattern = grep.value ? new RegExp(grep.value, "i") : null;
  } catch {
    grep.setAttribute("aria-invalid", "true");
  }
  let count = 0;
  rows.forEach((row, index) => {
    const kept = row.dataset.kinds.split(" ").includes(chosen) && (!pattern || pattern.test(texts[index]));
    row.hidden = !kept;
    count += kept;
  });
  document.getElementById("shown").textContent = `${count} of ${rows.length} rows, the largest differences first`;
};
buttons.forEach((button) => button.addEventListener("click", () => {
  chosen = button.dataset.show;
  buttons.forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
  apply();
}));
grep.addEventListener("input", apply);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
