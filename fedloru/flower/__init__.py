"""Federations of real clients, with Flower (flwr.ai, Beutel et al., arXiv 2007.14390) as the transport.

::

    protocol        what the messages contain             envelope       ... as Flower messages
    state           the state directory of a client       terms          what a client allows
    site            a client's data and model             member         a client: it answers the server
    client_app      a member behind Flower's ClientApp    once           ... in a new process per request
    node            the connection of a client            join           ... kept, until the end
    carrier         the rounds of a run                   guests         the clients that are connected
    round           one round                             replies        the checks of replies
    requests        the messages to clients               bases          the hashes of all versions
    scores          the scores of clients                 post           messages over a Grid
    attendance      what the record says about clients
    roster          the enrolled clients                  listing        ... as a table
    sightings       what the server sees of them          names          ... in a run folder
    superlink       Flower's server, for clients only     superlink_grid its Grid
    gate            what it serves                        routes         ... by name
    proxy, forward  TLS in front of it                    reverse_proxies  nginx and Caddy instead
    serve           the server                            trial          all on one machine
    local           a Grid in one process                 federate       runs with a federation
    certificates, hosts, keys, credentials, provision, probe   keys and certificates
"""
