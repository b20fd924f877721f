/* The page: what follows from the state, and the controls that change it. */

const views = [byId("first"), byId("second")].map((figure) => {
  const canvas = figure.querySelector("canvas");
  return { figure, canvas, context: canvas.getContext("2d"), caption: figure.querySelector("figcaption") };
});


let waiting = null;

/** Put the state into the address, once it rests: browsers allow few changes a second. */
function keep() {
  byId("link").href = linkOf();
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", linkOf()), 250);
}

// ---- what is shown ------------------------------------------------------------------------------------------------------

/** The maps that are shown: that of the target and, beside it, that of another concept, which has the target for its reference
 * where the target has it. */
function shownMaps() {
  const { target, references, strength, beside } = state;
  const image = page.images[state.image];
  const questions = [[target, references]];
  const others = page.computed ? nearest : () => references.map((k) => (k === beside ? target : k));
  if (beside !== null) questions.push([beside, others(beside)]);
  return questions.map(([concept, others]) => {
    const map = contrastiveMap(image, concept, others, strength);
    const error = errorOf(image, concept, others, strength);
    // What is no larger than the error of the 8 bits means nothing.
    const flat = map.every((value) => Math.abs(value) <= 2 * error);
    const heat = heatOf(image, flat ? map.map(() => 0) : map, state.smooth);
    const strongest = hottest(heat);
    const boxes = state.boxes && strongest ? boxesOf(image, heat, state.threshold * strongest) : [];
    const most = map[strongestOf(image, map)];
    return { concept, references: others, map, most, error, flat, heat, strongest, boxes, peak: peakOf(image, map) };
  });
}

/** The pixels of an image; null until the browser has decoded it. */
function pixelsOf(image) {
  if (image.pixels || !image.element.complete) return image.pixels ?? null;
  const canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image.element, 0, 0);
  return (image.pixels = context.getImageData(0, 0, image.width, image.height));
}

/** Draw everything that follows from target, references, strength and place. */
function draw() {
  const image = page.images[state.image];
  const maps = shownMaps();
  const pixels = pixelsOf(image);
  views.forEach((view, k) => {
    const shown = maps[k];
    view.figure.hidden = !shown;
    if (!shown) return;
    if (view.canvas.width !== image.width || view.canvas.height !== image.height) {
      Object.assign(view.canvas, { width: image.width, height: image.height });
      document.documentElement.style.setProperty("--shape", image.width / image.height);
    }
    if (pixels) {
      drawHeat(view.context, pixels, shown.heat, shown.strongest, palettes[state.palette]);
      drawMarks(view.context, image, shown.boxes, shown.strongest ? shown.peak : null, state.place);
    }
    view.caption.replaceChildren(...captionOf(shown));
    const against = shown.references.map((k) => short(page.names[k], 40)).join(", ");
    const name = `Map of ${short(page.names[shown.concept], 40)}${against && state.strength ? ` against ${against}` : ""}`;
    view.canvas.setAttribute("aria-label", k ? name : `${name}. Arrow keys choose a place, Escape the strongest one.`);
  });
  byId("maps").classList.toggle("two", maps.length > 1);
  byId("strength-value").textContent = state.strength.toFixed(2);
  byId("threshold-value").textContent = `${Math.round(100 * state.threshold)} %`;
  byId("unseen").hidden = !maps[0].heat.some(Number.isNaN);
  drawPlace(image, maps[0]);
  keep();
}

function captionOf({ concept, references, map, most, error, flat }) {
  const against = references.length && state.strength ? [" against ", ...listed(references)] : [" alone"];
  let said = most > 0 ? `strongest: ${signed(most)}` : "no evidence for it";
  if (flat) said = "no difference that can be shown";
  else if (127 * error > Math.max(...map.map(Math.abs))) said += `, all values ± ${error.toPrecision(2)}`;
  return [element("strong", {}, nameOf(concept)), ...against, element("span", { className: "note" }, ` · ${said}`)];
}

/** The concepts with the most evidence at a place, and the target against each of its references there. */
function drawPlace(image, { concept, references, map }) {
  const place = state.place ?? strongestOf(image, map);
  const [row, column] = [Math.floor(place / image.grid[1]) + 1, (place % image.grid[1]) + 1];
  const here = page.names.map((_, k) => baseMap(image, k)[place]);
  const against = here.map((value) => here[concept] - value);
  const [first] = ranked(here);
  byId("place").textContent =
    `${state.place === null ? "Strongest place (ring)" : "Chosen place (cross)"}: row ${row}, column ${column}, ` +
    `evidence ${signed(map[place])}. Without a comparison, ${short(page.names[first], 40)} has the most here.`;
  byId("place").classList.toggle("chosen", state.place !== null);
  fillTable(byId("here"), ranked(here).slice(0, 8), here, "Show the map of", (k) => choose({ target: k }));
  const others = ranked(against).filter((k) => references.includes(k));
  fillTable(byId("against-here"), others, against, "Compare with nothing but", (k) => choose({ references: [k] }));
  byId("no-references").hidden = others.length > 0 || page.computed !== null;
}

/** The lists, whose order depends on image and target. */
function drawLists() {
  const image = page.images[state.image];
  const [scores, similar] = [scoresOf(image), similaritiesTo(state.target)];
  fill(byId("targets"), ranked(scores), byId("target-search").value, [state.target], (k) =>
    choice("radio", "target", k, scores[k], k === state.target, () => choose({ target: k }, false)),
  );
  drawReferences(scores, similar);
}

function drawReferences(scores = scoresOf(page.images[state.image]), similar = similaritiesTo(state.target)) {
  const values = byId("order").value === "score" ? scores : similar;
  fill(byId("references"), ranked(values, [state.target]), byId("reference-search").value, state.references, (k) =>
    choice("checkbox", "reference", k, values[k], state.references.includes(k), toggle),
  );
  stopAt(byId("references").querySelector("input"));
  drawChosen();
}

/** Make one box of the list the only stop of the Tab key, as it is among radio buttons; arrow keys move among them. */
function stopAt(box) {
  for (const input of byId("references").querySelectorAll("input")) input.tabIndex = input === box ? 0 : -1;
}

/** The references that are chosen, each with a button to remove it where they can be chosen. */
function drawChosen() {
  const chips = state.references.map((k) => {
    if (page.computed) return element("span", { className: "chip" }, nameOf(k));
    const button = element("button", { type: "button", className: "chip" }, nameOf(k), " ×");
    button.setAttribute("aria-label", `Remove ${short(page.names[k])} from the references`);
    button.addEventListener("click", () => {
      toggle(k, false);
      (byId("chosen").querySelector("button") ?? byId("reference-search")).focus();
    });
    return button;
  });
  byId("chosen").replaceChildren(...(chips.length ? chips : [element("span", { className: "note" }, "none: the base map")]));
}

// ---- what is chosen -----------------------------------------------------------------------------------------------------

/** Change the state and show it; a target is no reference of its own, and nothing is beside itself. */
function choose(change, lists = true) {
  const moved = "image" in change && change.image !== state.image;
  Object.assign(state, moved ? { place: null } : {}, change);
  state.references = page.computed ? nearest(state.target) : state.references.filter((k) => k !== state.target);
  if (state.beside === state.target) state.beside = null;
  byId("beside").value = String(state.beside ?? "");
  byId("image-name").textContent = short(page.images[state.image].name, 80);
  byId("image-number").textContent = `${state.image + 1} of ${page.images.length}`;
  for (const input of byId("images").querySelectorAll("input")) input.checked = Number(input.value) === state.image;
  if (lists || moved) drawLists();
  else drawReferences();
  draw();
}

function toggle(concept, on) {
  state.references = on ? [...state.references, concept] : state.references.filter((k) => k !== concept);
  for (const input of byId("references").querySelectorAll("input")) {
    input.checked = state.references.includes(Number(input.value));
  }
  drawChosen();
  draw();
}

/** Put the state into all controls. */
function restore(found) {
  Object.assign(state, found, { strength: possible(found.strength) });
  for (const key of ["strength", "threshold", "palette"]) byId(key).value = String(state[key]);
  for (const key of ["smooth", "boxes"]) byId(key).checked = state[key];
  drawRamp();
  choose({});
}

/** The strength, or the nearest one at which maps were computed. */
function possible(strength) {
  const off = (one) => Math.abs(one - strength);
  return page.computed ? page.computed.strengths.reduce((best, one) => (off(one) < off(best) ? one : best)) : strength;
}

function drawRamp() {
  const { stops, against } = palettes[state.palette];
  const both = against ? [...[...against].reverse(), [128, 128, 128], ...stops] : [[128, 128, 128], ...stops];
  byId("ramp").style.background = `linear-gradient(to right, ${both.map((colour) => `rgb(${colour})`).join(", ")})`;
  byId("least").textContent = against ? "as strong, against it" : "none, or against it";
}

// ---- controls -----------------------------------------------------------------------------------------------------------

page.images.forEach((image, k) => {
  const input = element("input", { type: "radio", name: "image", value: String(k) });
  image.element = element("img", { src: image.source, alt: "" });
  image.element.addEventListener("load", () => k === state.image && draw());
  input.addEventListener("change", () => choose({ image: k }));
  const name = short(image.name, 80);
  byId("images").append(element("label", { className: "thumbnail", title: name }, input, image.element, element("bdi", {}, name)));
});
byId("beside").append(...page.names.map((name, k) => element("option", { value: String(k) }, short(name, 60))));
byId("palette").append(...Object.entries(palettes).map(([value, { title }]) => element("option", { value }, title)));

if (page.computed) {
  for (const id of ["choose-references", "against-table"]) byId(id).hidden = true;
  byId("not-linear").hidden = false;
  const { method, strengths } = page.computed;
  byId("not-linear").textContent =
    `${method} is not linear: a map against references is no difference of maps that this page could make. It has what was ` +
    `computed: each concept alone, and against its nearest concepts at strength ${strengths.slice(1).join(" and ")}.`;
  byId("strength").max = String(strengths.at(-1));
}
const strongest = Number(byId("strength").max);
for (const strength of [0, 0.6, 1, 2].filter((one) => one <= strongest)) {
  const tick = element("span", {}, String(strength));
  tick.style.setProperty("--at", `${(100 * strength) / strongest}%`);
  byId("ticks").append(tick);
}
byId("strength").addEventListener("input", (event) => {
  state.strength = possible(Number(event.target.value));
  event.target.value = String(state.strength);
  draw();
});
byId("threshold").addEventListener("input", (event) => {
  state.threshold = Number(event.target.value);
  byId("boxes").checked = state.boxes = true;
  draw();
});
for (const key of ["smooth", "boxes"]) {
  byId(key).addEventListener("change", (event) => {
    state[key] = event.target.checked;
    draw();
  });
}
byId("palette").addEventListener("change", (event) => {
  state.palette = event.target.value;
  drawRamp();
  draw();
});
byId("beside").addEventListener("change", (event) => choose({ beside: event.target.value === "" ? null : Number(event.target.value) }));
byId("target-search").addEventListener("input", drawLists);
byId("reference-search").addEventListener("input", () => drawReferences());
byId("references").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const inputs = Array.from(byId("references").querySelectorAll("input"));
  inputs[(inputs.indexOf(event.target) + step + inputs.length) % inputs.length].focus();
  event.preventDefault();
});
byId("references").addEventListener("focusin", (event) => stopAt(event.target));
byId("order").addEventListener("change", () => drawReferences());
byId("nearest").addEventListener("click", () => choose({ references: nearest(state.target) }));
byId("rivals").addEventListener("click", () => choose({ references: rivals(state.target) }));
byId("none").addEventListener("click", () => choose({ references: [] }));
byId("png").addEventListener("click", savePng);
byId("csv").addEventListener("click", () => save(new Blob([asCsv()], { type: "text/csv" }), "csv"));
byId("json").addEventListener("click", () => save(new Blob([asJson()], { type: "application/json" }), "json"));

for (const { canvas } of views) {
  canvas.addEventListener("click", (event) => {
    const image = page.images[state.image];
    const box = canvas.getBoundingClientRect();
    const [across, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    state.place = cellAt(image, across * image.width, down * image.height);
    draw();
  });
}
views[0].canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const image = page.images[state.image];
  const [rows, cols] = image.grid;
  if (event.key === "Escape") state.place = null;
  else if (steps[event.key]) {
    const from = state.place ?? strongestOf(image, contrastiveMap(image, state.target, state.references, state.strength));
    const [row, column] = [Math.floor(from / cols) + steps[event.key][0], (from % cols) + steps[event.key][1]];
    if (row >= 0 && row < rows && column >= 0 && column < cols) state.place = row * cols + column;
  } else return;
  event.preventDefault();
  draw();
});
window.addEventListener("hashchange", () => restore(stateOf(location.hash)));
restore(stateOf(location.hash));
