-- A value is whether a metric leaves out tokens, so that its counts cannot come from roll-ups.
--
-- formula: any of the four is asked for; null = not asked for
-- range: true or false; an error for a negative number of positions
-- source: ours
-- needs: nothing of the store
-- parameters:
--   prompt_only: whether to leave out tokens that the model generated
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not every compared language has
create or replace macro leaves_out(prompt_only, skip_positions, skip_special, shared_texts) as (
    coalesce(prompt_only, false)
    or case
        when skip_positions < 0
            then error('skip_positions is ' || skip_positions || '; it is a number of tokens, from 0')
        else coalesce(skip_positions, 0) > 0
    end
    or coalesce(skip_special, false)
    or coalesce(shared_texts, false)
);
