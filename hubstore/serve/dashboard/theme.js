// Runs before the page is drawn, so that it does not flash in the other scheme.
(() => {
  const kept = localStorage.getItem("hubstore-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
