"use strict";
(async () => {
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("packed").hidden = false;
    return;
  }
  const { figures, sliders, plotly } = await unpacked(document.getElementById("data").textContent);
  const controls = [...document.querySelectorAll("[data-role]")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    showSendToCloud: false, plotlyServerURL: "", // nothing leaves the reader's machine
  };

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  // What is told of each cell of a heat map: its row, its column and three digits of its value.
  function words(names, z) {
    const [rows, columns] = names;
    return z.map((row, i) => row.map((value, j) => `${rows[i]}, ${columns[j]}: ${value === null ? "–" : Number(value.toPrecision(3))}`));
  }

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const [ink, panel, grid, rule] = ["--ink", "--panel", "--grid", "--rule"].map((name) => style.getPropertyValue(name).trim());
    return {
      "font.color": ink, "font.family": getComputedStyle(document.body).fontFamily, "font.size": 12,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      "xaxis.gridcolor": grid, "yaxis.gridcolor": grid, "xaxis.linecolor": rule, "yaxis.linecolor": rule,
      "hoverlabel.bgcolor": panel, "hoverlabel.bordercolor": rule, "hoverlabel.font.color": ink,
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": rule, "modebar.activecolor": ink,
    };
  }

  // The options that a figure's controls have; a control with one option is not in the page.
  function choice(figure, section) {
    return figure.uses.map((role) => document.getElementById(`choose-${section}-${role}`)?.value ?? "0").join(".");
  }

  function show(name) {
    const figure = figures[name];
    const update = figure.updates[choice(figure, name.split("-")[0])];
    if (!update) return;
    const cells = figure.names && { text: [words(figure.names, update.data.z[0])] };
    Plotly.restyle(name, { ...update.data, ...cells });
    document.getElementById(`${name}-title`).textContent = update.title;
  }

  function label(control) {
    const text = sliders[control.dataset.role]?.[control.value];
    if (text === undefined) return;
    control.nextElementSibling.textContent = text;
    control.setAttribute("aria-valuetext", text);
  }

  function chosen(event) {
    const { role } = event.target.dataset;
    for (const control of controls.filter((one) => one.dataset.role === role)) {
      control.value = event.target.value;
      label(control);
    }
    for (const name of Object.keys(figures)) if (figures[name].uses.includes(role)) show(name);
  }

  const script = document.createElement("script");
  script.textContent = plotly; // its hash is in the page's policy
  document.head.append(script);
  for (const [name, figure] of Object.entries(figures)) {
    if (figure.names) figure.data[0].text = words(figure.names, figure.data[0].z);
    Plotly.newPlot(name, figure.data, figure.layout, { ...config, toImageButtonOptions: { filename: name, scale: 2 } })
      .then(() => Plotly.relayout(name, theme()))
      .then(() => show(name)); // a browser that goes back keeps what was chosen
  }
  for (const control of controls) {
    label(control);
    control.addEventListener(control.type === "range" ? "input" : "change", chosen);
  }
  dark.addEventListener("change", () => Object.keys(figures).forEach((name) => Plotly.relayout(name, theme())));
})();
