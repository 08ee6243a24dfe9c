namespace Virtbus.Hardware.Adapter;

/// <summary>What a function remembers besides its queue sets; the default is the state after power-on.</summary>
internal struct FunctionRegisters
{
    // Latched: what the driver wrote, taken over when the function is enabled.
    public ulong CommandBase;
    public ulong EventBase;
    public uint CommandSize;
    public uint EventSize;
    public uint Control;

    // Rung by the driver.
    public uint CommandProducer;
    public uint EventConsumerRung;

    // The rest is the adapter's.
    public bool IsEnabled;
    public bool IsLinkUntold;
    public AdapterError Error;
    public FunctionRing Commands;
    public FunctionRing Events;
    public uint CommandConsumer;
    public uint EventProducer;
    public uint EventConsumer;
}
