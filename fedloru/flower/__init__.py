"""Federations of real clients, with Flower (flwr.ai, Beutel et al., arXiv 2007.14390) as the transport.

::

    protocol      what the messages contain            envelope      ... as Flower messages
    state         the state directory of a client      member        a client: data, model, local training
    terms         what a client allows                 client_app    a member behind Flower's ClientApp
    carrier       the server's side of a round         replies       the validation of replies
    roster        the enrolled clients                 local         a Grid in one process
    superlink     Flower's SuperLink, restricted       node          the connection of a client to it
    certificates  keys and certificates                proxy         TLS in front of the SuperLink
"""
