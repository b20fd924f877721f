"use strict";

const collator = new Intl.Collator(document.documentElement.lang, { numeric: true });
const tables = [...document.querySelectorAll("details.table table")];

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

for (const table of tables) {
  for (const header of table.tHead.rows[0]?.cells ?? []) {
    if (!header.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

/** Show the rows that hold a text. */
function search(table, text) {
  const wanted = text.trim().toLowerCase();
  for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
}

/** A cell of a CSV file: a number in full; a text that a spreadsheet would run has an apostrophe before it. */
function field(cell) {
  const value = cell.dataset.value ?? cell.textContent.trim().replace(/\s+/g, " ");
  const text = cell.dataset.value === undefined && /^'*[=+\-@]/.test(value) ? `'${value}` : value;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Save the rows that are shown, in their order. */
function save(table, name) {
  const rows = [table.tHead.rows[0], ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
  const lines = rows.map((row) => `${Array.from(row.cells, field).join(",")}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const table of tables) {
  const heading = table.closest("section").querySelector("h2").textContent.trim();
  if (!table.tBodies[0].rows.length) continue;
  const tools = document.createElement("div");
  const input = document.createElement("input");
  const button = document.createElement("button");
  tools.className = "tools";
  input.type = "search";
  input.placeholder = "Search";
  input.setAttribute("aria-label", `Search: ${heading}`);
  input.addEventListener("input", () => search(table, input.value));
  button.type = "button";
  button.textContent = "Save as CSV";
  button.addEventListener("click", () => save(table, heading.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)));
  tools.append(input, button);
  table.parentElement.before(tools);
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

/** On paper nothing can be unfolded. */
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) details.dataset.folded = details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-folded]")) {
    details.open = false;
    delete details.dataset.folded;
  }
});
