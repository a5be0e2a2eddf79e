-- Which rows were refused, by source and reason?
SELECT source, reason, count(*) AS rows, min(file) AS first_file, min(line) AS first_line
FROM quarantine
GROUP BY source, reason
ORDER BY rows DESC, source, reason;
