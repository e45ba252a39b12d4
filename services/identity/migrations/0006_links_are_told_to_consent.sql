-- Document and audit are told of no links any more: consent names linked dossiers with each decision.
DELETE FROM link_delivery WHERE service <> 'consent';
