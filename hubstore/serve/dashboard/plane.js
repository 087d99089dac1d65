/** A plane of points to look around in: it pans, zooms and picks by mouse, by touch and by keyboard. */

import { Grid } from "./grid.js";
import { PointsGL } from "./points-gl.js";
import { Points2D } from "./points-2d.js";
import { ours } from "./colors.js";
import { h } from "./dom.js";

const DURATION = 520; // milliseconds from layer to layer
const REACH = 14; // pixels from a point that still pick it
const CLICK = 5; // pixels that a click may wander
const MARGIN = 1.12;
const [NEAREST, FARTHEST] = [400, 0.4];

export class Plane {
  /**
   * @param {string} label what the plane shows.
   * @param {{onhover: (i: number) => void, onpick: (i: number) => void, onlook: (look: string) => void,
   *   onarea: (path: number[][]) => void, overlay: (context: CanvasRenderingContext2D, at: (i: number) => number[], ratio: number) => void}} ways
   *   hover is told -1 where there is no point; `onlook` is told where one looks, for the address; `onarea` the
   *   corners of what was drawn around, in the points' units.
   */
  constructor(label, ways) {
    this.ways = ways;
    this.canvas = h("canvas", { class: "points", "aria-hidden": "true" });
    this.above = h("canvas", { class: "above", "aria-hidden": "true" });
    this.node = h(
      "div",
      {
        class: "plane",
        tabindex: "0",
        role: "application",
        "aria-label": label,
        "aria-description":
          "Arrow keys move, plus and minus zoom, 0 shows everything, Enter picks the point in the middle.",
        onkeydown: (event) => this.#key(event),
      },
      this.canvas,
      this.above,
      h("span", { class: "cross", "aria-hidden": "true" }),
    );
    const gl = this.canvas.getContext("webgl2", { antialias: false });
    this.renderer = gl ? new PointsGL(gl) : new Points2D(this.canvas);
    this.look = { x: 0, y: 0, zoom: 1 };
    this.time = 1;
    this.pointers = new Map();
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.node);
    this.#listen();
  }

  /**
   * Shows points at new places.
   * @param {Float32Array} points x and y of each, within about -1 and 1.
   * @param {boolean} glide from where they are.
   */
  place(points, glide) {
    if (points === this.to) return;
    const from = glide && this.to?.length === points.length ? this.#now() : points;
    this.from = from;
    this.to = points;
    this.grid = null;
    this.renderer.move(from, points);
    this.started = from === points ? null : performance.now();
    this.time = this.started === null ? 1 : 0;
    this.draw();
  }

  /** Shows points in other colors: see PointsGL.paint. */
  paint(look, state) {
    this.state = state;
    this.renderer.paint(look, state);
    this.draw();
  }

  /** Looks at a place: "x,y,zoom", or everything. */
  lookAt(words) {
    const [x, y, zoom] = (words ?? "").split(",").map(Number);
    this.look = [x, y, zoom].every(Number.isFinite) && words ? { x, y, zoom: clamp(zoom) } : { x: 0, y: 0, zoom: 1 };
    this.draw();
  }

  /** Whether dragging draws an area in the place of moving; with the shift key it always does. */
  drawsAreas(on) {
    this.drawing = on;
    this.node.classList.toggle("drawing", on);
  }

  /** The corners of what is in view. */
  view() {
    const [right, bottom] = [this.width, this.height];
    return [
      [0, 0],
      [right, 0],
      [right, bottom],
      [0, bottom],
    ].map((corner) => this.#unit(...corner));
  }

  /** Draws with the next frame. */
  draw() {
    this.#soon(true);
  }

  /** Draws what lies above the points alone with the next frame. */
  drawAbove() {
    this.#soon(false);
  }

  #soon(points) {
    this.changed ||= points;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.closed || !this.to || !this.state || !this.canvas.width) return;
      const { changed } = this;
      this.changed = false;
      if (this.started !== null) {
        const past = Math.min(1, (performance.now() - this.started) / DURATION);
        this.time = past < 0.5 ? 4 * past ** 3 : 1 - (-2 * past + 2) ** 3 / 2;
        if (past === 1) this.started = null;
        else this.draw();
      }
      if (changed) this.#drawPoints();
      this.#drawOverlay();
    });
  }

  /** The plane as it is, as a PNG on a background. */
  png(background) {
    this.#drawPoints(); // a canvas of WebGL is empty between frames
    const whole = h("canvas", { width: this.canvas.width, height: this.canvas.height });
    const context = whole.getContext("2d");
    context.fillStyle = background;
    context.fillRect(0, 0, whole.width, whole.height);
    context.drawImage(this.canvas, 0, 0);
    context.drawImage(this.above, 0, 0);
    return new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  }

  /** Where a point is in the node, in CSS pixels. */
  at(i) {
    const x = this.from[2 * i] + (this.to[2 * i] - this.from[2 * i]) * this.time;
    const y = this.from[2 * i + 1] + (this.to[2 * i + 1] - this.from[2 * i + 1]) * this.time;
    const scale = this.#scale();
    return [this.width / 2 + (x - this.look.x) * scale, this.height / 2 - (y - this.look.y) * scale];
  }

  close() {
    this.closed = true;
    this.observer.disconnect();
    this.renderer.close();
  }

  #drawPoints() {
    const scale = this.#scale();
    this.renderer.draw({
      time: this.time,
      center: [this.look.x, this.look.y],
      zoom: [(2 * scale) / this.width, (2 * scale) / this.height],
      size: this.#size() * this.ratio,
    });
  }

  #drawOverlay() {
    const context = this.above.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.ways.overlay(context, (i) => this.at(i));
    if (this.path) this.outline(context, this.path);
  }

  /** A line around an area, by its corners. */
  outline(context, corners) {
    const scale = this.#scale();
    context.beginPath();
    for (const [x, y] of corners)
      context.lineTo(this.width / 2 + (x - this.look.x) * scale, this.height / 2 - (y - this.look.y) * scale);
    context.closePath();
    context.strokeStyle = ours("--accent");
    context.lineWidth = 1.5;
    context.stroke();
    context.fillStyle = ours("--accent-faint");
    context.globalAlpha = 0.35;
    context.fill();
    context.globalAlpha = 1;
  }

  /** Points are smaller where there are many, larger where one looks closely. */
  #size() {
    const crowd = Math.sqrt((this.width * this.height) / Math.max(1, this.to.length / 2));
    return Math.min(11, Math.max(3, 0.44 * crowd) * Math.min(2, this.look.zoom ** 0.25));
  }

  /** CSS pixels to a unit. */
  #scale() {
    return (Math.min(this.width, this.height) / (2 * MARGIN)) * this.look.zoom;
  }

  #now() {
    if (this.time === 1) return this.to;
    return this.to.map((value, i) => this.from[i] + (value - this.from[i]) * this.time);
  }

  #resize() {
    this.width = this.node.clientWidth;
    this.height = this.node.clientHeight;
    this.ratio = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.canvas, this.above]) {
      canvas.width = Math.round(this.width * this.ratio);
      canvas.height = Math.round(this.height * this.ratio);
    }
    this.draw();
  }

  /** A place in the node in the points' units. */
  #unit(x, y) {
    const scale = this.#scale();
    return [this.look.x + (x - this.width / 2) / scale, this.look.y - (y - this.height / 2) / scale];
  }

  #nearest(x, y) {
    if (!this.to || this.started !== null) return -1;
    this.grid ??= new Grid(this.to);
    const scale = this.#scale();
    const [px, py] = this.#unit(x, y);
    const any = this.grid.nearest(px, py, REACH / scale, (i) => this.state[i] > 1);
    return any >= 0 ? any : this.grid.nearest(px, py, REACH / scale, (i) => this.state[i] === 1);
  }

  #listen() {
    const inside = (event) => {
      const box = this.node.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const over = this.above;
    over.addEventListener("pointerdown", (event) => {
      over.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, inside(event));
      this.wandered = this.pointers.size > 1 ? CLICK + 1 : 0;
      const draws = (this.drawing || event.shiftKey) && this.pointers.size === 1;
      this.path = draws ? [this.#unit(...inside(event))] : null;
    });
    over.addEventListener("pointermove", (event) => {
      const place = inside(event);
      const before = this.pointers.get(event.pointerId);
      if (!before) {
        this.#hover(this.#nearest(...place));
        return;
      }
      this.wandered += Math.hypot(place[0] - before[0], place[1] - before[1]);
      if (this.path) {
        this.path.push(this.#unit(...place));
        this.drawAbove();
      } else this.#drag(event.pointerId, before, place);
      this.pointers.set(event.pointerId, place);
    });
    const end = (event) => {
      if (!this.pointers.delete(event.pointerId)) return;
      if (event.type === "pointerup" && this.wandered <= CLICK) {
        const found = this.#nearest(...inside(event));
        if (found >= 0) this.ways.onpick(found);
      } else if (this.path) {
        if (event.type === "pointerup") this.ways.onarea(this.path);
      } else if (!this.pointers.size) this.#looked();
      this.path = null;
      this.drawAbove();
    };
    over.addEventListener("pointerup", end);
    over.addEventListener("pointercancel", end);
    over.addEventListener("pointerleave", () => this.#hover(-1));
    over.addEventListener("dblclick", (event) => {
      this.#zoom(2, ...inside(event));
      this.#looked();
    });
    over.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.#zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...inside(event));
        clearTimeout(this.wheeled);
        this.wheeled = setTimeout(() => this.#looked(), 250);
      },
      { passive: false },
    );
  }

  #drag(pointer, before, place) {
    const others = [...this.pointers].filter(([id]) => id !== pointer);
    const scale = this.#scale();
    const share = 1 / this.pointers.size;
    this.look.x -= ((place[0] - before[0]) / scale) * share;
    this.look.y += ((place[1] - before[1]) / scale) * share;
    if (others.length === 1) {
      const [, other] = others[0];
      const apart = (one) => Math.max(8, Math.hypot(one[0] - other[0], one[1] - other[1]));
      this.#zoom(apart(place) / apart(before), (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
    }
    this.draw();
  }

  #zoom(factor, x = this.width / 2, y = this.height / 2) {
    const before = this.#scale();
    this.look.zoom = clamp(this.look.zoom * factor);
    const after = this.#scale();
    this.look.x += (x - this.width / 2) * (1 / before - 1 / after);
    this.look.y -= (y - this.height / 2) * (1 / before - 1 / after);
    this.draw();
  }

  #hover(i) {
    if (i === this.hovered) return;
    this.hovered = i;
    this.above.style.cursor = i >= 0 ? "pointer" : "";
    this.ways.onhover(i);
  }

  #looked() {
    const { x, y, zoom } = this.look;
    this.ways.onlook(
      x === 0 && y === 0 && zoom === 1 ? null : [x, y, zoom].map((value) => value.toPrecision(4)).join(","),
    );
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60 / this.#scale();
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) {
      this.look.x += moves[event.key][0];
      this.look.y += moves[event.key][1];
    } else if (event.key === "+" || event.key === "=") this.#zoom(1.4);
    else if (event.key === "-") this.#zoom(1 / 1.4);
    else if (event.key === "0") this.look = { x: 0, y: 0, zoom: 1 };
    else if (event.key === "Enter") {
      const found = this.#nearest(this.width / 2, this.height / 2);
      if (found >= 0) this.ways.onpick(found);
      return;
    } else return;
    event.preventDefault();
    this.draw();
    this.#looked();
  }
}

function clamp(zoom) {
  return Math.min(NEAREST, Math.max(FARTHEST, zoom));
}
