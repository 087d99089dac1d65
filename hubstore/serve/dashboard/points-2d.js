/** Points drawn by the processor, with the verbs of PointsGL, where there is no WebGL: stamps into an image. */

import { SHAPES } from "./colors.js";

const OPACITY = [0, 0.12, 0.78, 1];
const LIT = 3;

export class Points2D {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  move(from, to) {
    this.from = from;
    this.to = to;
  }

  paint(look, state) {
    this.look = look;
    this.state = state;
  }

  draw({ time, center, zoom, size }) {
    const { width, height } = this.canvas;
    if (this.image?.width !== width || this.image.height !== height)
      this.image = this.context.createImageData(width, height);
    const pixels = this.image.data;
    pixels.fill(0);
    const { from, to, look, state } = this;
    const stamps = [stampsOf(size), stampsOf(size * 1.7)];
    const [halfWidth, halfHeight] = [width / 2, height / 2];
    for (const lit of [false, true]) {
      for (let i = 0; i < state.length; i += 1) {
        if (!state[i] || (state[i] === LIT) !== lit) continue;
        const x = from[2 * i] + (to[2 * i] - from[2 * i]) * time;
        const y = from[2 * i + 1] + (to[2 * i + 1] - from[2 * i + 1]) * time;
        const left = Math.round(halfWidth * (1 + (x - center[0]) * zoom[0]));
        const top = Math.round(halfHeight * (1 - (y - center[1]) * zoom[1]));
        press(pixels, width, height, left, top, stamps[Number(lit)][look[4 * i + 3]], look, 4 * i, OPACITY[state[i]]);
      }
    }
    this.context.putImageData(this.image, 0, 0);
  }

  close() {}
}

/** Lays a stamp of one color over the pixels around a place. */
function press(pixels, width, height, left, top, { cover, reach }, look, color, opacity) {
  if (left < reach || top < reach || left >= width - reach || top >= height - reach) return;
  const side = 2 * reach + 1;
  for (let row = 0; row < side; row += 1) {
    let at = 4 * ((top - reach + row) * width + left - reach);
    for (let column = 0; column < side; column += 1, at += 4) {
      const ink = cover[row * side + column] * opacity;
      if (ink === 0) continue;
      const under = (pixels[at + 3] / 255) * (1 - ink);
      const whole = ink + under;
      pixels[at] = (look[color] * ink + pixels[at] * under) / whole;
      pixels[at + 1] = (look[color + 1] * ink + pixels[at + 1] * under) / whole;
      pixels[at + 2] = (look[color + 2] * ink + pixels[at + 2] * under) / whole;
      pixels[at + 3] = 255 * whole;
    }
  }
}

/** How much of each pixel each shape of a size covers: from the middle `reach` pixels to every side. */
function stampsOf(size) {
  const radius = size / 2;
  const reach = Math.ceil(radius);
  const side = 2 * reach + 1;
  return SHAPES.map((shape) => {
    const cover = new Float32Array(side * side);
    for (let i = 0; i < cover.length; i += 1) {
      const x = ((i % side) - reach) / radius;
      const y = (Math.floor(i / side) - reach) / radius;
      cover[i] = Math.min(1, Math.max(0, (1 - FAR[shape](x, y)) * radius + 0.5));
    }
    return { cover, reach };
  });
}

/** How far a place is from the middle of a shape: 1 at its edge. */
const FAR = {
  circle: Math.hypot,
  square: (x, y) => 1.2 * Math.max(Math.abs(x), Math.abs(y)),
  triangle: (x, y) => Math.max(1.15 * y, Math.abs(x) - 0.55 * y + 0.12),
  diamond: (x, y) => Math.abs(x) + Math.abs(y),
};
