// Runs once for the map; `element` holds it, `trigger` asks the server. The map itself is replaced by each answer.
const STEP = 0.025;
const cursor = { x: 0.5, y: 0.5 };
let focused = false;

const clamp = (value) => Math.min(1, Math.max(0, value));

function showCursor(map) {
  let cross = map.querySelector('.cross');
  if (!cross) {
    cross = document.createElement('span');
    cross.className = 'cross';
    cross.setAttribute('aria-hidden', 'true');
    map.append(cross);
  }
  cross.style.left = `${100 * cursor.x}%`;
  cross.style.top = `${100 * cursor.y}%`;
}

element.addEventListener('click', (event) => {
  const map = event.target.closest('button.map');
  if (!map) return;
  if (event.detail > 0) {  // by a pointer; a key press leaves the cursor where the arrows moved it
    const box = map.querySelector('img').getBoundingClientRect();
    cursor.x = clamp((event.clientX - box.left) / box.width);
    cursor.y = clamp((event.clientY - box.top) / box.height);
  }
  showCursor(map);
  trigger('place', { x: cursor.x, y: cursor.y });
});

element.addEventListener('keydown', (event) => {
  const map = event.target.closest('button.map');
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (!map || !move) return;
  event.preventDefault();
  cursor.x = clamp(cursor.x + STEP * move[0]);
  cursor.y = clamp(cursor.y + STEP * move[1]);
  showCursor(map);
});

// An answer replaces the button: whoever was on it stays on it.
element.addEventListener('focusin', () => { focused = true; });
element.addEventListener('focusout', (event) => { if (event.relatedTarget) focused = false; });
watch('value', () => {
  const map = element.querySelector('button.map');
  if (focused && map && document.activeElement === document.body) map.focus({ preventScroll: true });
});
