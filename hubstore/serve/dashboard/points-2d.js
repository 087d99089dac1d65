/** Points drawn by the processor, with the verbs of PointsGL, where there is no WebGL. */

const ALPHA = [0, 0.12, 0.78, 1];

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
    // Points of one look are drawn together: a change of colour costs more than a point.
    const groups = new Map();
    for (let i = 0; i < state.length; i += 1) {
      if (!state[i]) continue;
      const key = (state[i] << 26) | (look[4 * i + 3] << 24) | (look[4 * i] << 16) | (look[4 * i + 1] << 8) | look[4 * i + 2];
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(i);
    }
    this.groups = [...groups].sort(([a], [b]) => (a >>> 26) - (b >>> 26));
  }

  draw({ time, centre, zoom, size }) {
    const { context, canvas, from, to } = this;
    const [halfWidth, halfHeight] = [canvas.width / 2, canvas.height / 2];
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const [key, members] of this.groups) {
      const state = key >>> 26;
      const radius = (size / 2) * (state === 3 ? 1.7 : 1);
      const trace = TRACES[(key >>> 24) & 3];
      context.globalAlpha = ALPHA[state];
      context.fillStyle = `rgb(${(key >>> 16) & 255},${(key >>> 8) & 255},${key & 255})`;
      context.beginPath();
      for (const i of members) {
        const x = from[2 * i] + (to[2 * i] - from[2 * i]) * time;
        const y = from[2 * i + 1] + (to[2 * i + 1] - from[2 * i + 1]) * time;
        trace(context, halfWidth * (1 + (x - centre[0]) * zoom[0]), halfHeight * (1 - (y - centre[1]) * zoom[1]), radius);
      }
      context.fill();
    }
    context.globalAlpha = 1;
  }

  close() {}
}

const TRACES = [
  (context, x, y, r) => {
    context.moveTo(x + r, y);
    context.arc(x, y, r, 0, 2 * Math.PI);
  },
  (context, x, y, r) => context.rect(x - 0.83 * r, y - 0.83 * r, 1.66 * r, 1.66 * r),
  (context, x, y, r) => {
    context.moveTo(x, y - r);
    context.lineTo(x + r, y + 0.87 * r);
    context.lineTo(x - r, y + 0.87 * r);
    context.closePath();
  },
  (context, x, y, r) => {
    context.moveTo(x, y - r);
    context.lineTo(x + r, y);
    context.lineTo(x, y + r);
    context.lineTo(x - r, y);
    context.closePath();
  },
];
