"use strict";

const collator = new Intl.Collator(document.documentElement.lang, { numeric: true });

/** What a cell is sorted by: a number, a text, or nothing. */
function key(cell) {
  const { value } = cell.dataset;
  if (value) return Number(value);
  return value === "" ? "" : cell.textContent.trim();
}

/** Numbers by size, texts by the alphabet, numbers before texts. */
function compare(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  if (typeof a === "number") return a < b ? -1 : a > b ? 1 : 0;
  return collator.compare(a, b);
}

/** Sort by a column, the other way round if it is sorted already; equal rows keep their order, empty cells stay below. */
function sort(table, header) {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const rows = Array.from(table.tBodies[0].rows, (row) => [key(row.cells[header.cellIndex]), row]);
  const filled = rows.filter(([value]) => value !== "").sort(([a], [b]) => sign * compare(a, b));
  const empty = rows.filter(([value]) => value === "");
  for (const [, row] of [...filled, ...empty]) table.tBodies[0].append(row);
}

for (const table of document.querySelectorAll("table")) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

/** A table that fits needs no box to scroll in; its head can then stay in sight. */
function fit(box) {
  const fits = box.firstElementChild.offsetWidth <= box.clientWidth;
  box.classList.toggle("fits", fits);
  if (fits) box.removeAttribute("tabindex");
  else box.tabIndex = 0;
}

const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => fit(target)));
for (const box of document.querySelectorAll(".scroll")) {
  fit(box);
  observer.observe(box);
}
