namespace Virtbus.Hardware.Adapter;

/// <summary>A command in a merlin adapter's mailbox.</summary>
/// <param name="Opcode">What is asked.</param>
/// <param name="Argument">As the opcode says.</param>
public readonly record struct MerlinCommand(MerlinOpcode Opcode, uint Argument = 0);
