namespace Virtbus.Pci;

/// <summary>
/// What a message of a function reaches at the end of its way: a vector of the bus. A function keeps what it found there
/// (<see cref="IPciPort.FindTarget"/>) and signals it straight. Any thread.
/// </summary>
public interface IPciMessageTarget
{
    /// <summary>Whether messages to the same address may reach another target by now.</summary>
    bool IsRevoked { get; }

    /// <summary>
    /// Signals the target, when that is no more than a user's eventfd. Looks at the route from within the target, so that who closes the route
    /// and then drains the target knows that nothing comes by it any more. Takes no lock and allocates nothing.
    /// </summary>
    /// <param name="route">The route that the message takes.</param>
    /// <returns>False when nothing was done: the message goes the long way, by <see cref="IPciPort.SendMessage"/>.</returns>
    bool TrySignal(PciMessageRoute route);

    /// <summary>Waits until those are out of <see cref="TrySignal"/> who may not have seen that a route was closed. They wait for nobody.</summary>
    void Drain();
}
