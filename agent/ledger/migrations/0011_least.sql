-- Of each memory device also the least that it had in the window of the observation, and when that is stamped: an agent that
-- was killed before the window was over bills no more than that in it. Of what is there nothing is said, so of no boot.
UPDATE attachments SET plugged_by_device = json_object(
    'bytes', json(plugged_by_device), 'least_bytes', json(plugged_by_device),
    'boot', json('[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]'), 'at_boottime_ns', 0
)
WHERE plugged_by_device IS NOT NULL;
