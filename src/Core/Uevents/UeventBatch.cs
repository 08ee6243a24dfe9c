namespace Virtbus.Core;

/// <summary>Events that a subscriber takes at once.</summary>
/// <param name="Lost">How many events before these the subscriber lost because it was slow.</param>
/// <param name="Events">The events in order.</param>
public readonly record struct UeventBatch(long Lost, IReadOnlyList<Uevent> Events);
