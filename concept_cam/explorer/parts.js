/* What the page is put together from. Names come from outside: they are text and never markup. */

const byId = (id) => document.getElementById(id);

/** An element with properties and children; a string becomes a text. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A name in at most so many letters, in its own direction of writing. */
function short(name, most = 120) {
  const letters = Array.from(name.slice(0, 2 * most));
  return letters.length > most || name.length > 2 * most ? `${letters.slice(0, most - 1).join("")}…` : name;
}

const nameOf = (concept) => element("bdi", {}, short(page.names[concept]));

/** Names with commas between. */
function listed(concepts) {
  return concepts.flatMap((concept, k) => (k ? [", ", nameOf(concept)] : [nameOf(concept)]));
}

/** A row to choose a concept by. */
function choice(kind, group, concept, value, checked, change) {
  const input = element("input", { type: kind, name: group, value: String(concept), checked });
  input.addEventListener("change", () => change(concept, input.checked));
  const number = element("span", { className: "value" }, value.toFixed(3));
  return element("label", { className: "row" }, input, nameOf(concept), number);
}

const most = 100;

/** Fill a list with the concepts that match a search, those that are chosen first if it would not show them otherwise. */
function fill(list, order, search, chosen, row) {
  const words = search.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (concept) => words.every((word) => page.names[concept].toLowerCase().includes(word));
  const found = order.filter(matches);
  const shown = found.slice(0, most);
  const before = words.length ? [] : chosen.filter((concept) => order.includes(concept) && !shown.includes(concept));
  const rows = [...before, ...shown].map(row);
  const left = found.length - shown.length;
  if (left) rows.push(element("p", { className: "note" }, `${left.toLocaleString("en")} more: search for them.`));
  if (!rows.length) rows.push(element("p", { className: "note" }, "No concept has these letters in its name."));
  list.replaceChildren(...rows);
}

/** Fill a table of concepts with a number each, and a button that does something with one; the focus stays where it was. */
function fillTable(body, concepts, values, title, act) {
  const most = Math.max(...concepts.map((concept) => Math.abs(values[concept])));
  const digits = most > 0 ? Math.min(Math.max(2 - Math.floor(Math.log10(most)), 0), 20) : 2;
  const rows = concepts.map((concept) => {
    const button = element("button", { type: "button" }, nameOf(concept));
    button.setAttribute("aria-label", `${title} ${short(page.names[concept])}`);
    button.addEventListener("click", () => act(concept));
    return element("tr", {}, element("td", {}, button), element("td", { className: "value" }, signed(values[concept], digits)));
  });
  const focused = Array.from(body.querySelectorAll("button")).indexOf(document.activeElement);
  body.replaceChildren(...rows);
  if (focused >= 0 && rows.length) rows[Math.min(focused, rows.length - 1)].querySelector("button").focus();
}

/** A number with its sign: with so many digits after the point, or with three that count. */
function signed(value, digits) {
  const size = Math.abs(value);
  return `${value < 0 ? "−" : "+"}${digits === undefined ? size.toPrecision(3) : size.toFixed(digits)}`;
}
