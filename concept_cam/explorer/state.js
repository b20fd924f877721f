/* What is chosen: at first, and by a link. */

const state = {};

/** What is chosen before anybody chooses: the concept with the highest score against the three that are most similar. */
function usual(image) {
  const [target] = ranked(scoresOf(page.images[image]));
  return {
    image,
    target,
    references: nearest(target),
    strength: 0.6,
    beside: null,
    place: null,
    palette: "ember",
    smooth: true,
    boxes: false,
    threshold: 0.5,
  };
}

/** The three most similar concepts, or those that the maps were computed against. */
function nearest(target) {
  return page.computed ? page.computed.references[target] : usable(target, similaritiesTo(target));
}

function rivals(target) {
  return usable(target, scoresOf(page.images[state.image]));
}

/** The three concepts with the largest values, without the target and its doubles, which there is no difference to. */
function usable(target, values) {
  const similar = similaritiesTo(target);
  return ranked(values, [target]).filter((k) => similar[k] < 0.99997).slice(0, 3);
}

// ---- the link, which holds the state ------------------------------------------------------------------------------------

/** Names, and not numbers: a link still holds when the page was made again with more images or concepts. */
function linkOf() {
  const { image, target, references, beside, place, ...others } = state;
  const told = [["image", page.images[image].name], ["target", page.names[target]]];
  for (const k of references) told.push(["against", page.names[k]]);
  if (!references.length) told.push(["against", ""]);
  if (beside !== null) told.push(["beside", page.names[beside]]);
  if (place !== null) told.push(["place", place]);
  return `#${new URLSearchParams([...told, ...Object.entries(others)])}`;
}

/** The state that a link holds; what is missing in it, or is not possible, is as usual, and names that the page does not have
 * are told. */
function stateOf(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const unknown = [];
  const find = (names, name) => {
    const found = name ? names.indexOf(name) : -1;
    if (name && found < 0) unknown.push(name);
    return found < 0 ? null : found;
  };
  const number = (key, least, most, otherwise) => {
    const value = Number.parseFloat(given.get(key));
    return value >= least && value <= most ? value : otherwise;
  };
  const images = page.images.map((image) => image.name);
  const found = usual(find(images, given.get("image")) ?? 0);
  found.target = find(page.names, given.get("target")) ?? found.target;
  const against = given.getAll("against").map((name) => find(page.names, name));
  found.references = given.has("against") ? [...new Set(against)].filter((k) => k !== null) : nearest(found.target);
  found.strength = number("strength", 0, 2, found.strength);
  found.threshold = number("threshold", 0.1, 0.9, found.threshold);
  found.beside = find(page.names, given.get("beside"));
  const [rows, cols] = page.images[found.image].grid;
  const place = given.get("place") ?? "";
  found.place = /^\d+$/.test(place) && Number(place) < rows * cols ? Number(place) : null;
  if (Object.hasOwn(palettes, given.get("palette"))) found.palette = given.get("palette");
  found.smooth = given.get("smooth") !== "false";
  found.boxes = given.get("boxes") === "true";
  byId("unknown").textContent = unknown.length
    ? `This page does not have ${unknown.map((name) => `“${short(name, 60)}”`).join(", ")}, which the link names.`
    : "";
  return found;
}
