/* Browsers start no worker from a page that was opened as a file. Here a hidden frame stands in: its script hears
   what is posted to the worker, and what it posts is heard by the page. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const page = this;
      this.inside.postMessage = (data) =>
        setTimeout(() => page.dispatchEvent(new MessageEvent("message", { data })));
      this.inside.importScripts = (...urls) =>
        Promise.all(urls.flat().map((one) => this.load(one)));
      this.ready = this.load(url);
    }
    load(url) {
      return new Promise((done, failed) => {
        const script = this.inside.document.createElement("script");
        script.src = new URL(url, location.href);
        script.onload = done;
        script.onerror = failed;
        this.inside.document.body.append(script);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
