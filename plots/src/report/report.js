"use strict";
// Tables are sorted by the button in a column's head: a click, Enter or the space bar.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const key = (row) => {
      const { dataset, textContent } = row.cells[column];
      if (dataset.value === undefined) return textContent;
      return dataset.value === "" ? null : Number(dataset.value);
    };
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    const rows = Array.from(body.rows, (row) => [key(row), row]);
    // What has no value is last either way.
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : ascending ? compare(a, b) : compare(b, a)));
    body.append(...rows.map(([, row]) => row));
  });
}
// A link to a cell opens it.
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
// A page on a disk may not be allowed to remember anything.
const themes = ["system", "light", "dark"];
const toggle = document.getElementById("theme");
const show = (theme) => {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  toggle.textContent = `Theme: ${theme}`;
};
let theme = "system";
try { theme = localStorage.getItem("lodestar-theme") ?? "system"; } catch { /* as the system has it */ }
if (!themes.includes(theme)) theme = "system";
show(theme);
toggle.hidden = false;
toggle.addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  show(theme);
  try { localStorage.setItem("lodestar-theme", theme); } catch { /* until it is closed */ }
});
