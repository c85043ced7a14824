/** What `connect` calls. */
export interface Handlers<M> {
  readonly onMessage: (message: M) => void;
  /** Messages are lost: load the page's data again. */
  readonly onReset: () => void;
  /** The session is over. No message follows. */
  readonly onEnded: () => void;
  /** A message did not fit its type. Without it, the error is thrown. */
  readonly onError?: (error: unknown) => void;
}
interface StreamEvent {
  readonly kind: string;
  readonly id: string;
  readonly data: string;
}
interface Locks {
  request(
    name: string,
    options: { readonly signal: AbortSignal },
    run: () => Promise<void>,
  ): Promise<void>;
}
function connectAs<M>(
  url: string,
  tags: readonly string[],
  decode: (value: unknown) => M,
  handlers: Handlers<M>,
): () => void {
  const name = `greentic-session:${url}`;
  const stop = new AbortController();
  const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel(name);
  const recent: string[] = [];
  let position = "";
  let ended = false;
  let source: EventSource | undefined;
  let release: () => void = () => undefined;

  function close(): void {
    ended = true;
    source?.close();
    release();
    stop.abort();
    channel?.close();
  }
  function receive(event: StreamEvent): void {
    if (ended) return;
    if (event.id !== "") position = event.id;
    if (event.kind === "hello") return;
    if (event.kind === "ended") {
      close();
      handlers.onEnded();
      return;
    }
    if (event.kind === "reset") {
      handlers.onReset();
      return;
    }
    // A tab that takes the stream over may send an event that this tab has already.
    if (recent.includes(event.id)) return;
    recent.push(event.id);
    if (recent.length > 256) recent.shift();
    let message: M;
    try {
      message = decode(JSON.parse(event.data));
    } catch (error) {
      if (handlers.onError === undefined) throw error;
      handlers.onError(error);
      return;
    }
    handlers.onMessage(message);
  }
  function open(): Promise<void> {
    if (ended) return Promise.resolve();
    const mark = url.includes("?") ? "&" : "?";
    const address = position === "" ? url : `${url}${mark}last_event_id=${encodeURIComponent(position)}`;
    source = new EventSource(address, { withCredentials: true });
    for (const kind of [...tags, "hello", "reset", "ended"]) {
      source.addEventListener(kind, (event: Event) => {
        const { lastEventId, data } = event as MessageEvent<string>;
        const sent: StreamEvent = { kind, id: lastEventId, data };
        channel?.postMessage(sent);
        receive(sent);
      });
    }
    return new Promise((resolve) => {
      release = resolve;
    });
  }
  channel?.addEventListener("message", (event: MessageEvent<StreamEvent>) => receive(event.data));
  const { navigator } = globalThis as unknown as { readonly navigator?: { readonly locks?: Locks } };
  if (channel === undefined || navigator?.locks === undefined) void open();
  else navigator.locks.request(name, { signal: stop.signal }, open).catch(() => undefined);
  return close;
}
