-- What does each selection or mixture consist of, by source? `rows` counts repeated examples as often as they occur.
SELECT s.name, s.target, s.method, e.source, count(*) AS examples, sum(i.copies) AS rows
FROM selection AS s
JOIN selection_item AS i USING (selection_id)
JOIN example AS e USING (example_id)
GROUP BY s.selection_id, e.source
ORDER BY s.selection_id, examples DESC, e.source;
