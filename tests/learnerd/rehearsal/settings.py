"""A configuration that is changed while the daemon runs."""

import signal

from rehearsal.rehearsals import QUICK, SPACES, register


def reload(site, process, text):
    site.configure(text)
    process.send_signal(signal.SIGHUP)


@register("config_refused", sample=True)
def a_value_that_is_none(site, drop):
    site.configure(SPACES + QUICK)
    process = site.start()
    reload(site, process, SPACES + QUICK + '[learner]\ngamma = "high"\n')
    yield
    reload(site, process, SPACES + QUICK)
    yield


@register("restart_needed", level="notice")
def a_key_that_waits_for_a_restart(site, drop):
    site.configure(SPACES + QUICK)
    process = site.start()
    reload(site, process, SPACES + QUICK + '[daemon]\nname = "other"\n')
    yield
    reload(site, process, SPACES + QUICK)
    yield


@register("policy_inferred", level="notice")
def no_shapes_in_the_configuration(site, drop):
    site.configure(QUICK)
    process = site.start()
    drop()
    yield
    assert site.stop(process) == 0
    site.configure(SPACES + QUICK)
    site.start()
    yield
