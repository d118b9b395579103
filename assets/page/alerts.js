// Error messages, in an alert region at the top of the page.

import { byId, h, icon } from './dom.js';

export const alerts = {
  /** Shows a message and removes earlier ones. */
  show({ text, detail, actions = [] }) {
    this.clear();
    const alert = h(
      'div',
      { class: 'alert' },
      icon('warning'),
      h('div', {}, h('p', {}, text), detail && h('p', { class: 'detail' }, detail)),
      ...actions.map(({ label, run }) => h('button', { type: 'button', onclick: () => (alert.remove(), run()) }, label)),
      h('button', { type: 'button', class: 'quiet icon', 'aria-label': 'Dismiss', onclick: () => alert.remove() }, icon('close')),
    );
    byId('alerts').append(alert);
    return alert;
  },
  clear() {
    byId('alerts').replaceChildren();
  },
};
