-- A value is whether one is asked for: how every metric restricts languages and layers.
--
-- formula: choice is null, or a list that holds value
-- range: true or false; NULL for a value of NULL that a list is asked of
-- source: ours
-- needs: nothing of the store
-- parameters:
--   value: a language or a layer of a row
--   choice: a list of those that are asked for; null = all
create or replace macro wanted(value, choice) as (choice is null or list_contains(choice, value));
