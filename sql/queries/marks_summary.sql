-- How many examples does each screening leave out, by reason and source?
SELECT m.screening_id, m.reason, e.source, count(*) AS examples, min(m.similarity) AS least_similarity
FROM mark AS m JOIN example AS e USING (example_id)
GROUP BY m.screening_id, m.reason, e.source
ORDER BY m.screening_id, m.reason, examples DESC, e.source;
