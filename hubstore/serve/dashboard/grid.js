/** Which point is nearest to a place: points are sorted into the cells of a grid once. */

const CELLS = 128; // across and down

export class Grid {
  /** @param {Float32Array} points x and y of each. */
  constructor(points) {
    this.points = points;
    const count = points.length / 2;
    this.low = [Infinity, Infinity];
    const high = [-Infinity, -Infinity];
    for (let i = 0; i < points.length; i += 1) {
      this.low[i % 2] = Math.min(this.low[i % 2], points[i]);
      high[i % 2] = Math.max(high[i % 2], points[i]);
    }
    this.width = this.low.map((low, axis) => Math.max(1e-9, (high[axis] - low) / CELLS));
    const cells = new Int32Array(count);
    this.starts = new Int32Array(CELLS * CELLS + 1);
    for (let i = 0; i < count; i += 1) {
      cells[i] = this.#cell(1, points[2 * i + 1]) * CELLS + this.#cell(0, points[2 * i]);
      this.starts[cells[i] + 1] += 1;
    }
    for (let cell = 0; cell < CELLS * CELLS; cell += 1) this.starts[cell + 1] += this.starts[cell];
    const next = this.starts.slice();
    this.members = new Int32Array(count);
    for (let i = 0; i < count; i += 1) this.members[next[cells[i]]++] = i;
  }

  /** The nearest point to a place within `reach` that `allowed` accepts, or -1. */
  nearest(x, y, reach, allowed) {
    let best = -1;
    let least = reach * reach;
    const right = this.#cell(0, x + reach);
    const bottom = this.#cell(1, y + reach);
    for (let row = this.#cell(1, y - reach); row <= bottom; row += 1) {
      for (let column = this.#cell(0, x - reach); column <= right; column += 1) {
        const cell = row * CELLS + column;
        for (let at = this.starts[cell]; at < this.starts[cell + 1]; at += 1) {
          const i = this.members[at];
          const far = (this.points[2 * i] - x) ** 2 + (this.points[2 * i + 1] - y) ** 2;
          if (far <= least && allowed(i)) {
            least = far;
            best = i;
          }
        }
      }
    }
    return best;
  }

  #cell(axis, value) {
    return Math.min(CELLS - 1, Math.max(0, Math.floor((value - this.low[axis]) / this.width[axis])));
  }
}
