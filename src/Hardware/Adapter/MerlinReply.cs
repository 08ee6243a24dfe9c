using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>The reply in a merlin adapter's mailbox.</summary>
/// <param name="Status">None, or why the command failed.</param>
/// <param name="Value">As the opcode says.</param>
public readonly record struct MerlinReply(Errno Status, ulong Value);
