namespace Virtbus.Hardware.Adapter;

/// <summary>How far the physical function suspended a virtual one.</summary>
internal enum SuspendLevel : byte
{
    /// <summary>It runs.</summary>
    None,
    /// <summary>It begins nothing that reaches other functions: no frame is sent. Commands run and frames are received.</summary>
    NoPeerAccess,
    /// <summary>It does no DMA and raises no interrupt; registers keep what is written to them.</summary>
    Stopped,
}
