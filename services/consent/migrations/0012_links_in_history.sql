-- A line in the history of each dossier that is linked already, which has had none: from here on decisions of the past
-- know of it. The rows of the dossiers are held until both statements are done.
UPDATE dossier AS d
SET epoch = d.epoch + 1
FROM linked_set AS l
WHERE l.health_id = d.health_id AND cardinality(l.member_ids) > 1 AND d.state NOT IN ('destroying', 'destroyed');

INSERT INTO consent_event (health_id, epoch, kind, payload, actor, request_id, recorded_at)
SELECT
    d.health_id,
    d.epoch,
    'dossier.link',
    jsonb_build_object('linked', to_jsonb(array_remove(l.member_ids, d.health_id)::text [])),
    '',
    'migration-0012',
    now()
FROM dossier AS d
INNER JOIN linked_set AS l ON d.health_id = l.health_id
WHERE cardinality(l.member_ids) > 1 AND d.state NOT IN ('destroying', 'destroyed')
ON CONFLICT (health_id, epoch) DO NOTHING;
