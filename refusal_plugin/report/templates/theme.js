// The system's theme until the reader says otherwise; the choice is kept where storage is allowed.
(function () {
  var root = document.documentElement, button = document.querySelector("button.theme");
  var system = window.matchMedia("(prefers-color-scheme: dark)");
  try { var kept = localStorage.getItem("refusal-plugin-theme"); if (kept) root.dataset.theme = kept; } catch (e) {}
  function dark() { return root.dataset.theme ? root.dataset.theme === "dark" : system.matches; }
  function name() { button.textContent = dark() ? "Light theme" : "Dark theme"; }
  button.addEventListener("click", function () {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("refusal-plugin-theme", root.dataset.theme); } catch (e) {}
    name();
  });
  system.addEventListener("change", name);
  button.hidden = false;
  name();
})();
