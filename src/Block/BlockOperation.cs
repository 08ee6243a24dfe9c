namespace Virtbus.Block;

/// <summary>What a block request wants.</summary>
public enum BlockOperation
{
    /// <summary>Fill the runs from the back end.</summary>
    Read,
    /// <summary>Store the runs in the back end.</summary>
    Write,
    /// <summary>Make durable what was written before; there are no runs.</summary>
    Flush,
    /// <summary>
    /// The bytes are not needed any more; there are no runs. What is read there afterwards is undefined but for that it is the same each time,
    /// until it is written.
    /// </summary>
    Discard,
    /// <summary>Make the bytes zeros; there are no runs.</summary>
    WriteZeroes,
    /// <summary>Fill the runs with the back end's own serial (<see cref="BlockInfo.Serial"/>), followed by zeros.</summary>
    GetId,
}
