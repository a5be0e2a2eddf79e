// Points on a canvas: written into its pixels, which takes a few milliseconds for 100,000 and needs no graphics card.

const GHOST = 0.16; // how much is seen of a point that is left out
const EDGE = 20, ABOVE = 60; // pixels around the view of all points; the buttons lie above it

// A disc as pixels: [dx, dy, share of the pixel in 256ths], smooth at its edge.
function disc(radius) {
  const found = [], reach = Math.ceil(radius + 0.5);
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy)));
      if (share > 0.03) found.push([dx, dy, Math.round(256 * share)]);
    }
  }
  return found;
}

const packed = (colour) => { // "#rrggbb" as a pixel of a little-endian machine
  const n = parseInt(colour.trim().slice(1), 16);
  return ((n & 255) << 16) | (n & 0xff00) | (n >> 16);
};

export class Plane {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.view = { x: 0, y: 0, zoom: 1 }; // middle, in the map's own units, and how much nearer than all
    this.xy = new Float32Array(0);
    this.fitted = { x: 0, y: 0, w: 1, h: 1 };
  }

  // Show these places; the view of all of them leaves none out.
  take(xy) {
    this.xy = xy;
    let left = Infinity, right = -Infinity, bottom = Infinity, top = -Infinity;
    for (let k = 0; k < xy.length; k += 2) {
      left = Math.min(left, xy[k]); right = Math.max(right, xy[k]);
      bottom = Math.min(bottom, xy[k + 1]); top = Math.max(top, xy[k + 1]);
    }
    this.fitted = { x: (left + right) / 2, y: (bottom + top) / 2, w: (right - left) || 1, h: (top - bottom) || 1 };
  }

  resize() {
    const dense = Math.min(2, devicePixelRatio || 1), box = this.canvas.getBoundingClientRect();
    const w = Math.max(1, Math.round(box.width * dense)), h = Math.max(1, Math.round(box.height * dense));
    this.dense = dense;
    if (this.canvas.width === w && this.canvas.height === h && this.image) return;
    this.canvas.width = w;
    this.canvas.height = h;
    this.image = this.context.createImageData(w, h);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  // Where the middle of the view is on the screen, and pixels of it for one unit of the map.
  get frame() {
    const box = this.canvas.getBoundingClientRect(), w = Math.max(1, box.width - 2 * EDGE), h = Math.max(1, box.height - ABOVE - EDGE);
    return { x: EDGE + w / 2, y: ABOVE + h / 2, scale: this.view.zoom * Math.min(w / this.fitted.w, h / this.fitted.h) };
  }

  toScreen(x, y) {
    const frame = this.frame;
    return [frame.x + (x - this.fitted.x - this.view.x) * frame.scale, frame.y - (y - this.fitted.y - this.view.y) * frame.scale];
  }

  toMap(px, py) {
    const frame = this.frame;
    return [(px - frame.x) / frame.scale + this.fitted.x + this.view.x, (frame.y - py) / frame.scale + this.fitted.y + this.view.y];
  }

  get radius() { // in pixels of the screen
    const n = this.xy.length / 2, least = n > 50000 ? 1.2 : n > 10000 ? 1.8 : n > 3000 ? 2.6 : 3.6;
    return Math.min(9, least * Math.pow(this.view.zoom, 0.35));
  }

  // `colours` by code; `codes` and `shown` by point: 0 leaves a shadow, 1 is drawn below 2.
  draw(codes, shown, colours, ground, ghost) {
    this.resize();
    const { pixels, xy, dense } = this, w = this.canvas.width, h = this.canvas.height, n = xy.length / 2;
    const table = Uint32Array.from({ length: 256 }, (_, k) => packed(colours[k] ?? ghost));
    const faint = packed(ghost);
    pixels.fill(packed(ground) | 0xff000000);
    const [ox, oy] = this.toScreen(0, 0), s = this.frame.scale * dense, left = ox * dense, top = oy * dense;
    const radius = this.radius * dense, kernel = disc(radius), reach = Math.ceil(radius + 1);
    for (const level of [0, 1, 2]) {
      const all = level ? kernel : disc(Math.max(0.8, radius * 0.6)), share = level ? 0.88 : GHOST;
      const m = all.length, dx = Int32Array.from(all, (e) => e[0]), dy = Int32Array.from(all, (e) => e[1]);
      const part = Int32Array.from(all, (e) => Math.round(e[2] * share)), step = Int32Array.from(all, (e) => e[1] * w + e[0]);
      for (let k = 0; k < n; k++) {
        if (shown[k] !== level) continue;
        const px = Math.round(left + xy[2 * k] * s), py = Math.round(top - xy[2 * k + 1] * s);
        if (px < -reach || py < -reach || px >= w + reach || py >= h + reach) continue;
        const colour = level ? table[codes[k]] : faint, rb = colour & 0xff00ff, g = colour & 0x00ff00;
        const whole = px >= reach && py >= reach && px < w - reach && py < h - reach, at = py * w + px;
        for (let e = 0; e < m; e++) {
          if (!whole && (px + dx[e] < 0 || px + dx[e] >= w || py + dy[e] < 0 || py + dy[e] >= h)) continue;
          const a = part[e], b = 256 - a, under = pixels[at + step[e]];
          pixels[at + step[e]] = ((((under & 0xff00ff) * b + rb * a) / 256) & 0xff00ff) | ((((under & 0xff00) * b + g * a) / 256) & 0xff00) | 0xff000000;
        }
      }
    }
    this.context.putImageData(this.image, 0, 0);
  }

  // The shown point nearest to a place on the screen, -1 where none is within `most` pixels.
  nearest(px, py, shown, most) {
    const [mx, my] = this.toMap(px, py), { xy } = this;
    let best = (most / this.frame.scale) ** 2, found = -1;
    for (let k = 0; k < xy.length / 2; k++) {
      if (shown[k] === 0) continue;
      const d = (xy[2 * k] - mx) ** 2 + (xy[2 * k + 1] - my) ** 2;
      if (d < best) { best = d; found = k; }
    }
    return found;
  }

  // Zoom by a factor about a place on the screen, which stays where it is.
  zoomAt(px, py, factor) {
    const [x, y] = this.toMap(px, py);
    this.view.zoom = Math.min(2000, Math.max(0.2, this.view.zoom * factor));
    const [nx, ny] = this.toMap(px, py);
    this.view.x += x - nx;
    this.view.y += y - ny;
  }

  panBy(dx, dy) {
    this.view.x -= dx / this.frame.scale;
    this.view.y += dy / this.frame.scale;
  }
}

// Which points are inside a polygon [x0, y0, x1, y1, …], by the number of its edges to the right of each.
export function within(xy, polygon) {
  const n = polygon.length / 2, out = new Uint8Array(xy.length / 2);
  let left = Infinity, right = -Infinity, low = Infinity, high = -Infinity;
  for (let k = 0; k < n; k++) {
    left = Math.min(left, polygon[2 * k]); right = Math.max(right, polygon[2 * k]);
    low = Math.min(low, polygon[2 * k + 1]); high = Math.max(high, polygon[2 * k + 1]);
  }
  for (let k = 0; k < out.length; k++) {
    const x = xy[2 * k], y = xy[2 * k + 1];
    if (x < left || x > right || y < low || y > high) continue;
    let inside = 0;
    for (let i = 0, j = n - 1; i < n; j = i++) {
      const yi = polygon[2 * i + 1], yj = polygon[2 * j + 1];
      if (yi > y !== yj > y && x < ((polygon[2 * j] - polygon[2 * i]) * (y - yi)) / (yj - yi) + polygon[2 * i]) inside ^= 1;
    }
    out[k] = inside;
  }
  return out;
}
