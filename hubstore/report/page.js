"use strict";
(() => {
  const { figures, sliders } = JSON.parse(document.getElementById("data").textContent);
  const controls = [...document.querySelectorAll("[data-role]")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    showSendToCloud: false, plotlyServerURL: "", // nothing leaves the reader's machine
  };

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
    Plotly.restyle(name, update.data);
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

  for (const [name, figure] of Object.entries(figures)) {
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
