using Virtbus.Hardware.Adapter;
using Virtbus.Platform;

namespace Virtbus.Testing;

/// <summary>An event of an adapter as it lay in the ring.</summary>
/// <param name="Type">Its kind.</param>
/// <param name="Status">How the command ended; of other events <see cref="Errno.None"/> or why.</param>
/// <param name="Tag">The command's tag, or what it is about.</param>
/// <param name="First">Result 0.</param>
/// <param name="Second">Result 1.</param>
public sealed record AdapterEvent(AdapterEventType Type, Errno Status, uint Tag, ulong First, ulong Second);
