if (location.protocol.startsWith("http")) {
  const here = new URL(".", location.href).href.replace(/\/$/, "");
  for (const place of document.querySelectorAll(".address")) place.textContent = here;
}
