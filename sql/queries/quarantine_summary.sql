-- Which rows were refused, by source and reason, and where is the first of each?
SELECT o.source, o.reason, count(*) AS rows,
       (SELECT q.file || ':' || q.line FROM quarantine AS q
        WHERE q.source = o.source AND q.reason = o.reason ORDER BY q.file, q.line LIMIT 1) AS first
FROM quarantine AS o
GROUP BY o.source, o.reason
ORDER BY rows DESC, o.source, o.reason;
