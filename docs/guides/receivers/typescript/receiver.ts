// receiver.ts: takes deliveries on port 8000, refuses what does not verify, and prints each event once
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

interface Event {
  id: string;
  type: string;
  timestamp: string;
  organizationId: string;
  data: { seq: number; targetId: string | null; [name: string]: unknown };
}

const webhook = new Webhook(process.env.WEBHOOK_SECRET ?? "");
const seen = new Set<string>(); // yours is a unique column, written in the transaction of what you do about the event

createServer(async (request, response) => {
  let event: Event;
  try {
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of request) {
      chunks.push(chunk);
      if ((length += chunk.length) > 1_000_000) throw new Error("no delivery is that long");
    }
    const body = Buffer.concat(chunks); // the bytes as they came: the signature is of these
    event = webhook.verify(body, request.headers as Record<string, string>) as Event;
  } catch {
    return response.writeHead(400).end();
  }
  if (!seen.has(event.id)) {
    // the header `webhook-id` is the same
    seen.add(event.id);
    console.log(event.data.seq, event.type, event.data.targetId);
  }
  return response.writeHead(204).end(); // at once: what takes long is for later
}).listen(Number(process.env.PORT ?? 8000), "127.0.0.1");
