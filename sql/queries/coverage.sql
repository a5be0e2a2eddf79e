-- How far is each feature space? One row per space and status.
SELECT s.fingerprint, r.status, count(*) AS examples
FROM feature_space AS s JOIN feature_row AS r USING (space_id)
GROUP BY s.fingerprint, r.status
ORDER BY s.fingerprint, r.status;
