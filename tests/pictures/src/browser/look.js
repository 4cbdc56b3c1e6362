// Measures the page in the frame, and leaves what it found in the element after it.
const frame = document.querySelector("iframe");

// Of a colour as getComputedStyle writes it: red, green, blue and alpha.
const parts = (colour) => {
  const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
  return { red, green, blue, alpha };
};

const luminance = ({ red, green, blue }) => {
  const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
};

const measure = () => {
  const page = frame.contentDocument;
  const style = (element) => frame.contentWindow.getComputedStyle(element);
  const root = page.documentElement;
  const name = (element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""}: ${element.textContent.trim().slice(0, 40)}`;
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(style(at).backgroundColor);
      if (colour.alpha > 0) return colour;
    }
    return { red: 255, green: 255, blue: 255, alpha: 1 };
  };

  const shown = [...page.body.querySelectorAll("*")].filter((element) => element.getClientRects().length > 0);
  const stickingOut = shown.filter((element) => {
    const { left, right, width } = element.getBoundingClientRect();
    return width > 0 && (left < -0.5 || right > root.clientWidth + 0.5);
  });
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim() !== "");
  const letters = shown.filter(own).map((element) => {
    const is = style(element);
    const isDrawn = element instanceof frame.contentWindow.SVGElement;
    const [ink, back] = [luminance(parts(isDrawn ? is.fill : is.color)), luminance(behind(element))];
    const scale = isDrawn ? element.getScreenCTM().a : 1;
    return { element, size: parseFloat(is.fontSize) * scale, contrast: (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05) };
  });
  const faintest = letters.reduce((least, next) => (next.contrast < least.contrast ? next : least));
  return {
    height: Math.ceil(page.body.getBoundingClientRect().height),
    overflow: Math.max(0, root.scrollWidth - root.clientWidth),
    stickingOut: stickingOut.map(name),
    background: style(page.body).backgroundColor,
    ink: style(page.body).color,
    smallest: Math.min(...letters.map(({ size }) => size)),
    contrast: faintest.contrast,
    faintest: name(faintest.element),
  };
};

addEventListener("load", () => {
  const found = new TextEncoder().encode(JSON.stringify(measure()));
  document.querySelector("pre").textContent = btoa(String.fromCharCode(...found));
});
