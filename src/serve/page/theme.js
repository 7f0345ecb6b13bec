// Runs before the first paint, so that a chosen appearance does not flash the other one.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem('lorakit.theme');
  } catch {
    // Storage is off: the system's appearance holds.
  }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
