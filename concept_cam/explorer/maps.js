"use strict";

/* The maps of an image: a base map for each concept, and contrastive maps as their differences. Of a method that is not linear
 * there are no differences: `page.computed` says which maps were computed, those of all concepts at one strength after another. */

const page = JSON.parse(document.getElementById("data").textContent);
page.units = decoded(page.units, Int16Array);
page.unitScales = decoded(page.unit_scales, Float32Array);

/** Numbers from base64, little-endian as all browsers of today have them. */
function decoded(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

/** All maps of an image, one after the other; made when they are first asked for. */
function mapsOf(image) {
  if (image.maps) return image.maps;
  const [rest, scales] = [decoded(image.rest, Int8Array), stepsOf(image)];
  const [basis, coefficients] = [decoded(image.basis, Int16Array), decoded(image.coefficients, Int16Array)];
  const shared = decoded(image.shared, Float32Array);
  const cells = image.grid[0] * image.grid[1];
  image.maps = new Float32Array(rest.length);
  const sum = new Float64Array(cells);
  for (let k = 0; k < scales.length; k++) {
    for (let n = 0; n < cells; n++) sum[n] = scales[k] * rest[k * cells + n];
    for (let j = 0; j < shared.length; j++) {
      const much = shared[j] * coefficients[k * shared.length + j];
      for (let n = 0; n < cells; n++) sum[n] += much * basis[j * cells + n];
    }
    image.maps.set(sum, k * cells);
  }
  return image.maps;
}

/** The step of the 8 bits of each map. */
function stepsOf(image) {
  return (image.steps ??= decoded(image.scales, Float32Array));
}

/** The base map of a concept: a number for each cell, row by row. */
function baseMap(image, concept) {
  const cells = image.grid[0] * image.grid[1];
  return mapsOf(image).subarray(concept * cells, (concept + 1) * cells);
}

/** The map of a target against references: base(target) - strength * mean of base(reference), or as it was computed. */
function contrastiveMap(image, target, references, strength) {
  if (page.computed) return Float32Array.from(baseMap(image, computedAt(target, strength)));
  const map = Float32Array.from(baseMap(image, target));
  for (const reference of references) {
    const other = baseMap(image, reference);
    for (let n = 0; n < map.length; n++) map[n] -= (strength / references.length) * other[n];
  }
  return map;
}

/** By how much a value of such a map may be off, because maps are kept in 8 bits. */
function errorOf(image, target, references, strength) {
  const steps = stepsOf(image);
  if (page.computed) return steps[computedAt(target, strength)] / 2;
  const others = references.reduce((sum, k) => sum + steps[k], 0) / (references.length || 1);
  return (steps[target] + strength * others) / 2;
}

/** Where among the computed maps that of a concept at a strength is. */
function computedAt(concept, strength) {
  return page.computed.strengths.indexOf(strength) * page.names.length + concept;
}

/** The scores of all concepts on an image. */
function scoresOf(image) {
  return (image.known ??= decoded(image.scores, Float32Array));
}

/** The similarities of all concepts to one: inner products of their units. */
function similaritiesTo(concept) {
  if (page.similar?.concept === concept) return page.similar.values;
  const { units, unitScales } = page;
  const width = unitScales.length;
  const own = Float64Array.from(unitScales, (scale, j) => scale * scale * units[concept * width + j]);
  const values = Float32Array.from(page.names, (_, k) => own.reduce((sum, value, j) => sum + value * units[k * width + j], 0));
  page.similar = { concept, values };
  return values;
}

/** The concepts with the largest values first, without some. */
function ranked(values, without = []) {
  const order = Array.from(values, (_, k) => k).filter((k) => !without.includes(k));
  return order.sort((a, b) => values[b] - values[a] || a - b);
}

/** Which cells show a part of the image that the model saw; the others lie in padding. */
function shownCells(image) {
  const [rows, cols] = image.grid;
  const [left, top, right, bottom] = image.cells;
  const [down, across] = [(bottom - top) / rows, (right - left) / cols];
  return Array.from({ length: rows * cols }, (_, n) => {
    const [y, x] = [top + Math.floor(n / cols) * down, left + (n % cols) * across];
    const inRows = y < Math.min(image.height, image.window[3]) && y + down > Math.max(0, image.window[1]);
    return inRows && x < Math.min(image.width, image.window[2]) && x + across > Math.max(0, image.window[0]);
  });
}

/** The cell with the largest value, among those that are shown. */
function strongestOf(image, map) {
  const shown = (image.shown ??= shownCells(image));
  let strongest = shown.indexOf(true);
  for (let n = 0; n < map.length; n++) if (shown[n] && map[n] > map[strongest]) strongest = n;
  return strongest;
}

/** (x, y) in pixels of the small image: the mean place of the positive evidence in the strongest cell and those around it. */
function peakOf(image, map) {
  const cols = image.grid[1];
  const strongest = strongestOf(image, map);
  const [row, column] = [Math.floor(strongest / cols), strongest % cols];
  let [total, down, across] = [0, 0, 0];
  map.forEach((value, n) => {
    const [r, c] = [Math.floor(n / cols) - row, (n % cols) - column];
    const weight = image.shown[n] && Math.abs(r) <= 1 && Math.abs(c) <= 1 ? Math.max(value, 0) : 0;
    total += weight;
    down += weight * r;
    across += weight * c;
  });
  return placeOf(image, row + (total && down / total), column + (total && across / total));
}

/** The centre (x, y) of a cell, in pixels of the small image. */
function centreOf(image, cell) {
  return placeOf(image, Math.floor(cell / image.grid[1]), cell % image.grid[1]);
}

/** (x, y) in pixels of the small image, of a row and a column that may have fractions. */
function placeOf(image, row, column) {
  const [rows, cols] = image.grid;
  const [left, top, right, bottom] = image.cells;
  const x = left + ((column + 0.5) / cols) * (right - left);
  const y = top + ((row + 0.5) / rows) * (bottom - top);
  return [Math.min(Math.max(x, 0), image.width), Math.min(Math.max(y, 0), image.height)];
}

/** The cell at a place of the small image; the nearest one, if there is none. */
function cellAt(image, x, y) {
  const [rows, cols] = image.grid;
  const [left, top, right, bottom] = image.cells;
  const inside = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
  return inside((y - top) / (bottom - top), rows) * cols + inside((x - left) / (right - left), cols);
}
