/** Plotly, loaded when the first figure is drawn, in the page's colors. */

import { onScheme, ours } from "./colors.js";
import { h } from "./dom.js";

const CONFIG = { displayModeBar: false };
let loading = null;

function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "static/plotly-cartesian.min.js" });
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error("Plotly could not be loaded from this server."));
    };
    document.head.append(script);
  });
  return loading;
}

/** A figure that follows the page's scheme. */
export class Figure {
  /** @param {string} label what it shows, for those who cannot see it. */
  constructor(label) {
    this.node = h("div", { class: "figure", role: "img", "aria-label": label });
    this.make = null;
    this.unwatch = onScheme(() => this.make && this.draw(this.make));
    this.observer = new ResizeObserver(() => this.#render());
    this.observer.observe(this.node);
  }

  /**
   * Draws, now or once the figure is in the page: only there has it a width.
   * @param {() => {data: Object[], layout: Object}} make is asked again when the scheme or the width changes.
   */
  async draw(make) {
    this.make = make;
    await plotly();
    await this.#render();
  }

  async #render() {
    if (!this.make || !globalThis.Plotly || !this.node.clientWidth) return;
    const { data, layout } = this.make();
    await globalThis.Plotly.react(this.node, data, { ...themed(layout), width: this.node.clientWidth }, CONFIG);
  }

  /** The figure as a PNG, twice as fine as on the screen. */
  async png() {
    const Plotly = await plotly();
    const { data, layout } = this.make();
    return image(Plotly, data, layout, this.node.clientWidth, layout.height);
  }

  close() {
    this.unwatch();
    this.observer.disconnect();
    globalThis.Plotly?.purge(this.node);
  }
}

/** A figure as a PNG without showing it. */
export async function png(data, layout, width, height) {
  return image(await plotly(), data, layout, width, height);
}

async function image(Plotly, data, layout, width, height) {
  const paper = ours("--paper");
  const whole = { ...themed(layout), paper_bgcolor: paper, plot_bgcolor: paper };
  const url = await Plotly.toImage({ data, layout: whole }, { format: "png", width, height, scale: 2 });
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (one) => one.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

function themed(layout) {
  const ink = ours("--ink"),
    grid = ours("--grid"),
    rule = ours("--rule"),
    soft = ours("--soft");
  const axis = { gridcolor: grid, linecolor: rule, zerolinecolor: rule, tickfont: { color: soft }, zeroline: false };
  return {
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", size: 13, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: false,
    hoverlabel: { bgcolor: ours("--panel"), bordercolor: rule, font: { color: ink }, align: "left" },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
}
