// The conversation as a file. Names that a blind vote still hides stay hidden.

import { download } from './dom.js';
import { currentAnswer, isHidden, LETTERS, shownName, shownOrder, state } from './state.js';

const stamp = () => new Date().toISOString().slice(0, 19).replaceAll(':', '-');

function answerRecord(turn, uid, place) {
  const answer = currentAnswer(turn, uid);
  if (!answer) return null;
  if (isHidden(turn)) return { name: LETTERS[place], text: answer.text, status: answer.status };
  const { model, scale, adapter, text, calls, status, error, finish, usage, generation, version, firstMs, perSecond } = answer;
  return {
    model, scale, adapter, text, ...(calls.length ? { tool_calls: calls } : {}), status, ...(error ? { error } : {}), finish_reason: finish,
    usage, adapter_generation: generation, adapter_version: version, first_token_ms: firstMs, tokens_per_second: perSecond,
  };
}

export function asJson() {
  const turns = state.turns.map((turn) => ({
    user: turn.user,
    answers: shownOrder(turn).map((uid, place) => answerRecord(turn, uid, place)).filter(Boolean),
  }));
  return JSON.stringify({ exported: new Date().toISOString(), settings: state.settings, turns }, null, 2);
}

export function asMarkdown() {
  const lines = ['# Conversation', ''];
  if (state.settings.system) lines.push('## System', '', state.settings.system, '');
  for (const turn of state.turns) {
    lines.push('## You', '', turn.user, '');
    for (const uid of shownOrder(turn)) {
      const answer = currentAnswer(turn, uid);
      if (!answer) continue;
      const version = !isHidden(turn) && answer.version ? ` (v${answer.version})` : '';
      lines.push(`## ${shownName(turn, uid)}${version}`, '', answer.text || `(${answer.error ?? answer.status})`, '');
    }
  }
  return lines.join('\n');
}

export const saveJson = () => download(`conversation-${stamp()}.json`, 'application/json', asJson());
export const saveMarkdown = () => download(`conversation-${stamp()}.md`, 'text/markdown', asMarkdown());
