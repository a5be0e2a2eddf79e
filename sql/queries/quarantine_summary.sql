-- Which rows were refused, by dataset, source and reason, and where is the first of each?
SELECT o.role, o.dataset, o.source, o.reason, count(*) AS rows,
       (SELECT q.file || ':' || q.line FROM quarantine AS q
        WHERE q.role = o.role AND q.dataset = o.dataset AND q.source = o.source AND q.reason = o.reason
        ORDER BY q.file, q.line LIMIT 1) AS first
FROM (SELECT DISTINCT role, dataset, file, line, source, reason FROM quarantine) AS o
GROUP BY o.role, o.dataset, o.source, o.reason
ORDER BY rows DESC, o.role, o.dataset, o.source, o.reason;
